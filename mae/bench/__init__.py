"""How fast the product is, measured where it runs."""
