"""From scores to maps, areas, a verdict. No torch here."""
