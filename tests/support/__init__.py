"""What several tests share: tiny models, a scripted chat, a double of Ollama's server."""
