"""Durable work: accepted once, kept through any crash, ended exactly once."""
