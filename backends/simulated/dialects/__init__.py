"""How does each route's answer look, byte for byte as SGLang 0.5.23 writes it?"""
