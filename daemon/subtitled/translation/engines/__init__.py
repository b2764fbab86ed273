"""Translation engines: CTranslate2 models, and chat endpoints with OpenAI's interface."""
