"""The only code that touches llama.cpp: library, model, context, hooks, sampling."""
