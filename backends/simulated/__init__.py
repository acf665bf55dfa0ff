"""How does a fleet behave that is not here? Replicas with SGLang's HTTP surface and a given
GPU's timing.
"""
