"""What goes over the wire: OpenAI's shapes, SGLang's shapes, and the way from one to the other."""
