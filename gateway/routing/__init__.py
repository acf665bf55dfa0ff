"""Which replicas may serve a call, and in which order of preference?"""
