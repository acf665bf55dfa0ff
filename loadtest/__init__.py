"""Load tests against any OpenAI-compatible endpoint, judged as MLPerf's LoadGen judges."""
