"""Recipes: small parts that make weights sparse while the one loop trains them."""
