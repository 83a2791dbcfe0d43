"""The two engines (pairs, moments) and what every loss shares. Not public."""
