"""How good it is, where it looks, how sure the numbers are."""
