"""minibot: an AI chatbot on Telegram, WhatsApp, Messenger and Instagram, in plain Python and the OpenAI SDK.

A message's way, and with it the reading order:

    web/server      bytes -> Request              web/wire (the grammar), web/routes (which handler)
    flow/intake     Request -> 200, 401, 503      channels/* verify and parse; store accepts; then the 200
    flow/dispatch   due conversation -> Worker    a lease in the store: one conversation, one worker
    flow/conversation  messages -> answer         guard (may we?), ai (the model), commands, media
    flow/delivery   part -> Fate                  channels/* call and judge; web/calls performs; retry decides
    store/*         what is true                  schema (tables), sql (verbs), sqlite (one writer), postgres (several)

Read first: model, work and errors (the values), then channels/contract and store/contract (the two borders),
then along the table. config holds the settings, text and markup the words, desk what the operator uses, app
puts everything together, cli starts it.

What is promised, and where it is kept:
- answered 200 means stored: flow/intake answers only after the store's commit;
- every stored message ends in exactly one outcome: store/contract, flow/conversation;
- in at most once: the unique event key in store/schema;
- out in order, nothing lost: store marks a part `sending` before the call, flow/retry decides about unsure ones;
- one conversation, one worker: the lease and its fence (`epoch`) in store;
- a follow-up joins the answer being made: flow/conversation;
- an outage uses up nobody's message: flow/breaker, flow/retry;
- nobody unauthenticated gets past the door: channels/* verify, before anything is parsed.

Next: `model.py`.
"""
