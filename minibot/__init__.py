"""minibot: an AI chatbot on Telegram, WhatsApp, Messenger and Instagram."""
