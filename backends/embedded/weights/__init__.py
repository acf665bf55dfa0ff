"""How do the small models come to be? Scripts that run in the engine's environment."""
