"""Which real engine runs on a machine without a GPU, and how is it set up and started?"""
