"""How good a model is, with intervals by patient, as figures, tables and a page; and what it looks at."""
