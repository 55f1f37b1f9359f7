"""What the classifier says of every tile."""
