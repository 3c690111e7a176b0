"""What pictures of the data and of the report have in common; matplotlib is imported only when something is drawn."""
