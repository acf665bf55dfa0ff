"""The request path: N identical processes between OpenAI-style clients and a fleet of replicas."""
