"""The client of judges behind OpenAI-compatible endpoints, with rate limits, retries and a cache."""
