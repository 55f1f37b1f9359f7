"""The shared core: weighted loss, transfer learning, evaluation. It knows no slide."""
