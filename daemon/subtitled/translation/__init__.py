"""Translations: sentences from phrases, checks of answers, and cues in the target language."""
