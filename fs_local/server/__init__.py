"""HTTP for the programs that speak to local models: OpenAI's shapes, Ollama's, and steering in both."""
