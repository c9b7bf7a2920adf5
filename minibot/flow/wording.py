"""Every sentence minibot itself says in a chat, in one place. An exception's text is never among them.

Not here: when it is said (`commands.py`, `conversation.py`). The law: short, polite, one thought, true.

Next: `commands.py`.
"""

from __future__ import annotations

READABLE = "I can read text, look at pictures and listen to voice messages."
UNREADABLE = f"Sorry, I cannot read this. {READABLE}"
NOTICES = {
    "video": f"Sorry, I cannot watch videos. {READABLE}",
    "document": f"Sorry, I cannot open files. {READABLE}",
    "sticker": f"Sorry, I cannot read stickers. {READABLE}",
    "unavailable": "Sorry, your message did not come through. Please send it again.",
}
APOLOGY = "Sorry, I cannot answer right now. The people who run this bot have been told."
REFUSED = "Sorry, I cannot answer this one."
PLEASE_WAIT = "One moment please: I cannot answer just now. Your message is kept, and you will get an answer."
TOO_MANY = "You are writing faster than I can answer. Please wait a minute and write again."
OVER_BUDGET = "I have reached my limit for today. Please write again tomorrow."
NO_MEDIA = "[a picture or voice message that could not be loaded]"

START = "Hello! I am an AI assistant. Write me anything; /help shows what else I can do."
HELP = (
    "I am an AI assistant: write, send a picture or a voice message, and I answer.\n"
    "/reset - start a new conversation\n"
    "/human - ask for a person; /bot brings me back\n"
    "/privacy - what is stored, and where\n"
    "/forget - erase what is stored about this chat"
)
RESET = "Done. We start afresh; I no longer look at what was said before."
FORGOTTEN = (
    "Done. Your messages, my answers and everything else stored about this chat are erased. "
    "Backups made earlier keep what they have until the operator deletes them."
)
HUMAN = "I have asked for a person and will be quiet. Send /bot if you want me back."
BOT = "I am back. How can I help?"


def privacy(keep_days: int, model_host: str, copied: bool) -> str:
    """What is stored where and for how long; `keep_days` 0 means until it is erased."""
    term = f"for {keep_days} days" if keep_days else "until you or the operator erases it"
    copy = "Each exchange is also copied to their records, a CRM or a spreadsheet. " if copied else ""
    return (
        f"Your messages and my answers are stored in the database of the people who run this bot, {term}. "
        f"To answer, the recent part of this chat is sent to the AI service at {model_host}, whose operator can read "
        "it. Pictures and voice messages are passed on in the same way and not kept. "
        f"{copy}/forget erases this chat here."
    )
