"""What is started and stopped, and by whom?"""
