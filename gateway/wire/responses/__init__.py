"""How is OpenAI's Responses API spoken to callers while the engine hears chat completions only?"""
