// The demo's page: draws what /events tells, posts what a person does. Text from anywhere is put in as text, never as
// HTML. Nothing here decides anything: the phones show what the simulated platforms show, the wire what went over it.
"use strict";

const NAMES = { telegram: "Telegram", whatsapp: "WhatsApp", messenger: "Messenger", instagram: "Instagram", model: "the model" };
const PHONES = ["telegram", "whatsapp", "messenger", "instagram"];
const LIMITS = { telegram: 4096, whatsapp: 4096, messenger: 2000, instagram: 1000 }; // of one message, by platform
const TYPING = { telegram: 5, whatsapp: 25, messenger: 20, instagram: 20 }; // seconds that the sign is shown
const ONLINE = { telegram: "bot", whatsapp: "online", messenger: "Active now", instagram: "Active now" };
const EVA = "Hello, this is Eva from the team. I have read along, and take over from here.";
const FORMATTED = "/echo **Bold**, *italic*, `code`, ~~gone~~ and [a link](https://example.org).\n\n" +
  "- one\n- two\n\n> a quotation\n\n```python\nprint('hello')\n```";
const CHOICE = { type: "button_reply", button_reply: { id: "more", title: "Tell me more" } };
const START = { way: "message", shown: "Get started", kind: "postback", content: { title: "Get started", payload: "GET_STARTED" } };
const BUTTONS = {
  telegram: { way: "text", shown: "/start", text: "/start" },
  whatsapp: { way: "message", shown: "Tell me more", kind: "interactive", content: CHOICE },
  messenger: START, instagram: START,
};
const CALL_TROUBLE = [ // kind, label, hint
  ["429", "429", "“Too many requests.” Telegram says for how long (3 s) and minibot waits just that; Meta does not, so pauses grow from a second."],
  ["500", "500", "The server is in trouble. Nothing was done, so minibot tries again with growing pauses."],
  ["401", "401", "The token is refused. Messages are kept, the operator is told; minibot asks again after half a minute or more."],
  ["hang", "silence", "No answer until the time is up (30 s for a platform, 8 s for the model): nobody knows whether it arrived."],
  ["reset", "cut before", "The connection breaks and nothing was delivered. Nobody knows that, so minibot first looks for a sign of it."],
  ["half", "cut after", "Delivered, but the reply is lost. Meta's receipts and echoes tell; Telegram tells nothing, so it comes once more."],
];
const MODEL_TROUBLE = [...CALL_TROUBLE.slice(0, 5), ["slow", "slow", "The model thinks for two seconds. Write a second message meanwhile: it joins, one answer covers both."]];
const MESSAGE_TROUBLE = [
  ["times", "comes 5 times", "The platform delivers it five times. One row, one answer.", 5],
  ["late", "is overtaken", "It is on its way for five seconds: what you write after it arrives first.", 5],
  ["forged", "is forged", "Somebody without the secret posts it. Refused with 401; nothing is stored.", true],
  ["day", "waits a day", "24 hours go by before the answer leaves: outside the window Meta takes none, and minibot says so. (Telegram has no window.)", true],
];
const LESSONS = {
  "no-dedup": ["Lesson: without deduplication", "Choose “comes 5 times” and write a message. Platforms deliver at least once, so this happens to everybody on a slow day. The bot answers again and again and pays for each answer, until its guard against loops of bots steps in."],
  "no-order": ["Lesson: without order", "Choose the model, press “slow”, then write two messages quickly. Each is worked on by itself, so the answer to the second comes first. What belongs together is torn apart, and neither answer knows of the other."],
  "ack-first": ["Lesson: acknowledge first, store later", "Write a message and press “kill -9” within two seconds. The platform got its 200 and will never send the message again. It is gone: after the restart nobody answers."],
  "no-signature": ["Lesson: without signatures", "Choose “is forged” and write a message. Somebody who knows nothing but the address has posted it. The bot answers, at your expense, and whoever it was can speak in anybody's name."],
  "truncate": ["Lesson: cut at the limit", "Press “Long text” on any phone. The answer is longer than one message of that platform, and only the first is sent. The end is missing, and nothing says so."],
};
const OPENED = { whatsapp: /\*|_|~|`|^> /m };

const $ = (id) => document.getElementById(id);
const token = document.querySelector("meta[name=demo-token]").content;
const phones = {}, current = {}, armed = {};
let journeys = new Map(), state = {}, target = "telegram";

function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name in node) node[name] = value; else node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== ""));
  return node;
}

function icon(name, className = "icon") {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", "#" + name);
  svg.setAttribute("class", className);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

async function post(path, body = {}) {
  const headers = { "Content-Type": "application/json", "X-Demo-Token": token };
  try {
    const reply = await fetch(path, { method: "POST", headers, body: JSON.stringify(body) });
    if (!reply.ok) hint(`The demo refuses this: ${reply.status}.`);
  } catch { hint("The demo does not answer any more: is it still running?"); }
}

const hint = (text) => { $("hint").textContent = text; };
const clock = (at) => new Date(at).toTimeString().slice(0, 5);
const json = (text) => { try { return JSON.parse(text); } catch { return null; } };

// --- text as the platforms show it -----------------------------------------------------------------------------------

const TAGS = { bold: "b", italic: "i", underline: "u", strikethrough: "s", code: "code", pre: "pre", blockquote: "blockquote" };

function link(text, url) {
  return /^(https?|tg|mailto|tel):/i.test(url) ? el("a", { href: url, target: "_blank", rel: "noreferrer noopener" }, text) : text;
}

function linked(text) { // bare addresses become links
  return text.split(/(https?:\/\/[^\s)]+)/).map((piece, at) => (at % 2 ? link(piece, piece) : piece));
}

function telegram(text, entities, from = 0, to = text.length) { // offsets count UTF-16 units, as JavaScript does
  const nodes = [];
  let at = from;
  entities.forEach((mark, index) => {
    const end = mark.offset + mark.length;
    if (mark.offset < at || end > to) return;
    nodes.push(...linked(text.slice(at, mark.offset)));
    const inside = telegram(text, entities.slice(index + 1), mark.offset, end);
    const node = mark.type === "text_link" ? link("", mark.url) : el(TAGS[mark.type] || "span");
    if (node.append) node.append(...inside);
    nodes.push(node);
    at = end;
  });
  return tidy([...nodes, ...linked(text.slice(at, to))]);
}

function tidy(nodes) { // a block stands on lines of its own already
  const block = (node) => node instanceof Element && /^(PRE|BLOCKQUOTE)$/.test(node.tagName);
  return nodes.map((node, at) => (typeof node !== "string" ? node
    : (block(nodes[at - 1]) ? node.replace(/^\n+/, "") : node).replace(block(nodes[at + 1]) ? /\n+$/ : /$^/, "")));
}

const WHATSAPP = /```\n?([\s\S]+?)\n?```|`([^`\n]+)`|(?<!\w)\*(?=\S)([^*\n]+)\*(?!\w)|(?<!\w)_(?=\S)([^_\n]+)_(?!\w)|(?<!\w)~(?=\S)([^~\n]+)~(?!\w)|^> (.*)$/m;
const WHATSAPP_TAGS = ["pre", "code", "b", "i", "s", "blockquote"];

function whatsapp(text) {
  const found = OPENED.whatsapp.test(text) && WHATSAPP.exec(text);
  if (!found) return linked(text);
  const kind = found.slice(1).findIndex((group) => group !== undefined), inside = found[kind + 1];
  const node = el(WHATSAPP_TAGS[kind], {}, ...(kind < 2 ? [inside] : whatsapp(inside)));
  const after = text.slice(found.index + found[0].length);
  return tidy([...linked(text.slice(0, found.index)), node, ...whatsapp(after)]);
}

const SHOW = { telegram: (what) => telegram(what.text, what.entities || []), whatsapp: (what) => whatsapp(what.text) };

// --- phones ----------------------------------------------------------------------------------------------------------

function makePhone(platform) {
  const node = $("phone").content.cloneNode(true).firstElementChild, find = (selector) => node.querySelector(selector);
  const phone = phones[platform] = { node, chat: find(".chat"), input: find("textarea"), status: find(".who small"),
    window: find(".window"), person: find(".person-key"), mine: new Map(), typing: null };
  armed[platform] = new Set();
  node.dataset.platform = platform;
  node.setAttribute("aria-label", NAMES[platform]);
  find("h2").textContent = NAMES[platform];
  find(".glyph use").setAttribute("href", "#" + platform);
  find(".clock").textContent = clock(Date.now());
  phone.chat.dataset.hint = `Nothing here yet.\nThis ${NAMES[platform]} is simulated, the program behind it is real.`;
  phone.chat.setAttribute("aria-label", `Chat on ${NAMES[platform]}`);
  phone.input.setAttribute("aria-label", `Message on ${NAMES[platform]}`);
  phone.input.maxLength = LIMITS[platform];
  phone.status.textContent = ONLINE[platform];
  const say = (text) => act(platform, { way: "text", shown: text, text });
  const submit = () => { if (phone.input.value.trim()) { say(phone.input.value.trim()); phone.input.value = ""; resize(); } };
  const resize = () => { phone.input.rows = Math.min(4, phone.input.value.split("\n").length); node.classList.toggle("writing", phone.input.value !== ""); };
  find("form").addEventListener("submit", (event) => { event.preventDefault(); submit(); });
  phone.input.addEventListener("input", resize);
  phone.input.addEventListener("focus", () => aim(platform));
  phone.input.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); submit(); }
  });
  const chips = [["Hello", () => say("Hello! Do you open on Sunday?")], ["Formatting", () => say(FORMATTED)],
    ["Long text", () => say(longText(LIMITS[platform]))], [BUTTONS[platform].shown, () => act(platform, BUTTONS[platform])]];
  find(".chips").append(...chips.map(([label, run]) => el("button", { type: "button", onclick: run }, label)));
  const file = find(".file"), media = (data) => { act(platform, { way: "media", shown: phone.input.value, caption: phone.input.value, data }); phone.input.value = ""; resize(); };
  find(".attach").addEventListener("click", () => file.click());
  file.addEventListener("change", async () => {
    try { if (file.files[0]) media(await read(file.files[0])); } catch { hint("This is no picture that the browser can read."); }
    file.value = "";
  });
  find(".voice").addEventListener("click", () => media(tone()));
  phone.person.addEventListener("click", () => {
    const on = phone.person.getAttribute("aria-pressed") !== "true", word = on ? "/human" : "/bot";
    if (on && platform !== "telegram") act(platform, { way: "human", shown: EVA, text: EVA }); else say(word);
  });
  phone.person.title = platform === "telegram" ? "Ask for a person: /human; /bot brings the bot back"
    : "Somebody of the team answers from the inbox: the bot falls silent; /bot brings it back";
  $("phones").append(node);
}

function act(platform, what) {
  const trouble = what.way === "human" ? [] : MESSAGE_TROUBLE.filter(([kind]) => armed[platform].has(kind));
  post("/act", { platform, ...what, ...Object.fromEntries(trouble.map(([kind, , , value]) => [kind, value])) });
  trouble.forEach(([kind]) => armed[platform].delete(kind));
  aim(platform);
}

function longText(limit) { // as long as one message may be; with its label the answer is longer
  const end = " …\n\nThis is the end. If you can read this, nothing was lost.";
  let text = "/echo Nothing of a long answer may be lost.";
  for (let number = 1; text.length < limit; number++) text += `\n\n${number}. A platform takes only so much in one message, so an answer is split where a reader would pause.`;
  return text.slice(0, limit - end.length) + end;
}

async function read(file) { // a picture is made small enough to travel; a sound goes as it is
  let content = file;
  if (file.type.startsWith("image/")) {
    const image = await createImageBitmap(file), scale = Math.min(1, 960 / Math.max(image.width, image.height));
    const canvas = el("canvas", { width: image.width * scale, height: image.height * scale });
    canvas.getContext("2d").drawImage(image, 0, 0, canvas.width, canvas.height);
    content = await new Promise((done) => canvas.toBlob(done, "image/jpeg", 0.85));
  }
  return base64(new Uint8Array(await content.arrayBuffer()));
}

function base64(octets) {
  let text = "";
  for (let at = 0; at < octets.length; at += 32768) text += String.fromCharCode(...octets.subarray(at, at + 32768));
  return btoa(text);
}

function tone() { // a WAV file: 1.2 seconds of a falling fifth
  const rate = 8000, count = rate * 1.2, view = new DataView(new ArrayBuffer(44 + count * 2));
  const word = (at, text) => [...text].forEach((letter, index) => view.setUint8(at + index, letter.charCodeAt(0)));
  word(0, "RIFF"); view.setUint32(4, 36 + count * 2, true); word(8, "WAVEfmt ");
  [[16, 16], [20, 0x10001], [24, rate], [28, rate * 2], [32, 0x100002]].forEach(([at, value]) => view.setUint32(at, value, true));
  word(36, "data"); view.setUint32(40, count * 2, true);
  for (let at = 0; at < count; at++) {
    const hertz = at < count / 2 ? 660 : 440, fade = Math.sin(Math.PI * (at % (count / 2)) / (count / 2));
    view.setInt16(44 + at * 2, 9000 * fade * Math.sin(2 * Math.PI * hertz * at / rate), true);
  }
  return base64(new Uint8Array(view.buffer));
}

function bubble(platform, who, what) {
  const phone = phones[platform];
  const content = who === "me" || !SHOW[platform] ? linked(what.text) : SHOW[platform](what);
  const file = what.data && what.mime.startsWith("image/") ? el("img", { alt: "the picture that was sent", src: `data:${what.mime};base64,${what.data}` })
    : what.data ? el("audio", { controls: true, src: `data:${what.mime};base64,${what.data}` }) : null;
  const meta = el("span", { className: "meta" }, clock(what.at), who === "me" ? icon("tick", "tick") : null);
  const label = who === "person" ? el("em", {}, "Eva, a person") : what.forged ? el("em", {}, "forged by a stranger") : null;
  const node = el("li", { className: `bubble ${who}` }, label, file, el("div", { className: "text" }, ...content), meta);
  if (what.forged) node.classList.add("forged");
  else if (who === "me") phone.wroteAt = what.at;
  if (file) node.classList.add("with-file");
  if (who === "me") {
    phone.chat.querySelectorAll(".last").forEach((one) => one.classList.remove("last"));
    node.classList.add("last");
    phone.mine.set(what.id, node);
  } else typing(platform, false);
  phone.chat.insertBefore(node, phone.typing && phone.typing.node);
  phone.chat.scrollTop = phone.chat.scrollHeight;
  return node;
}

function typing(platform, on) {
  const phone = phones[platform];
  if (phone.typing) { clearTimeout(phone.typing.timer); phone.typing.node.remove(); phone.typing = null; }
  if (on) {
    const node = el("li", { className: "bubble bot typing", "aria-label": "typing" }, el("i"), el("i"), el("i"));
    phone.chat.append(node);
    phone.typing = { node, timer: setTimeout(() => typing(platform, false), TYPING[platform] * 1000) };
    phone.chat.scrollTop = phone.chat.scrollHeight;
  }
  phone.status.textContent = on ? "typing…" : ONLINE[platform];
}

function mark(platform, id, word) {
  const phone = phones[platform], nodes = id ? [phone.mine.get(id)] : [...phone.mine.values()];
  for (const node of nodes.filter(Boolean)) node.classList.add(word);
}

function showPerson(platform, on) {
  phones[platform].person.setAttribute("aria-pressed", on);
  phones[platform].node.classList.toggle("with-person", on);
}

function showWindow() {
  for (const platform of PHONES.slice(1)) {
    const { wroteAt, window } = phones[platform], left = 24 * 3600e3 - (Date.now() - wroteAt);
    const hours = Math.floor(left / 3600e3), minutes = Math.floor(left / 60e3) % 60;
    window.textContent = wroteAt === undefined ? "" : left <= 0 ? "24 h window closed" : `window ${hours}:${String(minutes).padStart(2, "0")} h`;
    window.classList.toggle("closed", left <= 0);
  }
}

// --- trouble ---------------------------------------------------------------------------------------------------------

function aim(platform) {
  target = platform;
  for (const button of $("targets").children) button.setAttribute("aria-checked", button.dataset.target === platform);
  $("call-title").textContent = platform === "model" ? "The next call to the model gets" : `The next call to ${NAMES[platform]} gets`;
  $("message-group").hidden = platform === "model";
  $("message-title").textContent = `My next message on ${NAMES[platform]}`;
  drawKeys();
}

function drawKeys() {
  const planned = (state.planned || {})[target] || [], list = target === "model" ? MODEL_TROUBLE : CALL_TROUBLE;
  const key = ([kind, label, text], count, run) => {
    const about = () => hint(text);
    return el("button", { type: "button", className: `key ${count ? "armed" : ""}`, "data-kind": kind, title: text, onmouseenter: about, onfocus: about,
      onclick: () => { run(); about(); }, "aria-pressed": Boolean(count) }, label, count > 1 ? el("b", {}, `×${count}`) : "");
  };
  const held = document.activeElement && document.activeElement.dataset.kind;
  $("call-keys").replaceChildren(...list.map((row) => key(row, planned.filter((kind) => kind === row[0]).length, () => post("/plan", { platform: target, kind: row[0] }))));
  $("message-keys").replaceChildren(...(target === "model" ? [] : MESSAGE_TROUBLE).map((row) => {
    const node = key(row, armed[target].has(row[0]) ? 1 : 0, () => { armed[target][armed[target].has(row[0]) ? "delete" : "add"](row[0]); drawKeys(); });
    node.disabled = row[0] === "day" && target === "telegram";
    return node;
  }));
  const again = held && document.querySelector(`.key[data-kind="${held}"]`);
  if (again) again.focus();
  for (const platform of PHONES) phones[platform].node.classList.toggle("troubled", armed[platform].size > 0);
}

// --- the wire --------------------------------------------------------------------------------------------------------

const P = "by-platform", M = "by-program", D = "by-disk", A = "by-model", X = "by-trouble";
const until = (due, at) => `again in ${duration(Math.max(0, due - at))}`;
const cut = (text, size = 80) => (text.length > size ? text.slice(0, size) + "…" : text);
const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
const TAKEN = { 200: "answered 200: it is on disk", 401: "refused with 401: the signature is wrong", 503: "answered 503: the platform will repeat it" };
const FATES = { sent: "delivered", maybe: "perhaps delivered: shown to the operator", dead: "given up", expired: "expired: outside the 24-hour window" };
const CALLS = { messages: "POST messages", attachments: "download", ig_messaging_cdn: "download" };
const SILENT = { hang: "keeps silent", reset: "breaks the connection; nothing was done", half: "breaks the connection; it was done", slow: "takes its time" };
const STEPS = { // step -> [whose, title, what comes after it] of a hop
  webhook: (hop, name) => [P, `${name} posts the message`, "signed, over HTTP"],
  taken: (hop) => [hop.status === 200 ? M : X, TAKEN[hop.status] || `answered ${hop.status}`, duration(hop.ms)],
  accepted: (hop) => [D, hop.facts.new ? "one row committed" : "known already: no second row", !hop.facts.new ? "absorbed" : hop.facts.due ? "before the 200" : "kept, but nobody is to answer it now"],
  claimed: (hop) => [M, "a worker takes the conversation", hop.facts.part ? "something is still to be sent" : `${plural(hop.facts.messages.length, "message")} waiting`],
  prompt: (hop) => [A, "the model is asked", plural(hop.facts.said.length, "message")],
  answer: (hop) => [A, "the model answers", cut(hop.facts.answer.text, 60)],
  finished: (hop) => [D, "answer and outcome committed", `${plural((hop.facts.parts || []).length, "part")} to send`],
  call: (hop, name) => [M, `call to ${name}: ${CALLS[hop.name] || (/^\d+$/.test(hop.name) ? "where is the file?" : hop.name)}`, ""],
  reply: (hop, name) => (hop.trouble ? [X, `${name} ${SILENT[hop.trouble] || hop.trouble}`, ""] : [hop.status < 300 ? P : X, `${name} replies ${hop.status}`, ""]),
  settled: (hop) => { const fate = hop.facts.fate; return FATES[fate.state] ? [fate.state === "sent" ? D : X, FATES[fate.state], "committed"] : [X, fate.unsure ? "nobody knows whether it arrived" : `not sent: ${fate.error || "waits"}`, fate.due_at ? until(fate.due_at, hop.at) : "at once, in another shape"]; },
  postponed: (hop) => [X, `no answer yet: ${hop.facts.why}`, until(hop.facts.until, hop.at)],
  receipt: (hop, name) => [P, `${name} reports`, (/"status":"(\w+)"/.exec(hop.octets) || /(is_echo)/.exec(hop.octets) || /"(read)":/.exec(hop.octets) || ["", "an echo"])[1].replace("is_echo", "an echo")],
  away: (hop) => [X, "nobody answers", hop.note],
  late: (hop) => [X, `on its way for ${hop.late} s`, "later messages overtake it"],
  day: (hop) => [X, "a day goes by", hop.note],
  killed: () => [X, "killed with kill -9", "the serving process is gone"],
};

function duration(ms) {
  return ms < 100 ? `${ms.toFixed(1)} ms` : ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`;
}

function journey(platform, id, text, at, human) {
  for (const { node } of journeys.values()) node.open = node.open && node.matches(":focus-within");
  const badge = el("span", { className: "badge" }, "on its way"), hops = el("ol", { className: "hops" });
  const node = el("details", { className: "journey", open: true },
    el("summary", {}, icon(platform, "glyph"), el("span", { className: "said" }, cut(text || "a picture or a sound", 70)), badge), hops);
  node.dataset.platform = platform;
  $("journeys").prepend(el("li", {}, node));
  const made = { platform, id, node, hops, badge, at, human, open: true };
  journeys.set(current[platform] = `${platform}:${id}`, made);
  if (journeys.size > 60) { const [key, old] = journeys.entries().next().value; journeys.delete(key); old.node.parentNode.remove(); }
  $("empty").hidden = true;
}

function hop(one) {
  const facts = one.facts || {}, ids = one.message ? [one.message] : facts.messages || (facts.event ? [facts.event.message_id] : []);
  const named = ids.map((id) => `${one.platform}:${id}`).filter((key) => journeys.has(key)).pop();
  if (named && !["webhook", "taken", "away"].includes(one.step)) current[one.platform] = named;
  const found = journeys.get(named || current[one.platform]);
  if (!found || !STEPS[one.step] || one.of === "receipt" && one.status === 200 || /^(getMe|set\w+)$/.test(one.name)) return;
  const [whose, title, more] = STEPS[one.step](one, NAMES[one.platform]);
  const detail = one.octets || (one.facts && JSON.stringify(one.facts.event || one.facts));
  const line = [el("time", {}, `+${duration(Math.max(0, one.at - found.at))}`), el("i", { className: `dot ${whose}` }), el("span", { className: "title" }, title), el("span", { className: "more" }, more)];
  const row = el("li", { className: `hop ${one.step} ${whose === X ? "wrong" : ""}` }, detail ? opens(line, detail) : el("div", { className: "line" }, ...line));
  const stored = one.step === "taken" && found.hops.querySelector(".accepted"); // the 200 leaves right after it
  row.dataset.at = stored ? Number(stored.dataset.at) + 0.001 : one.at;
  const after = [...found.hops.children].reverse().find((other) => Number(other.dataset.at) <= one.at);
  if (after) after.after(row); else found.hops.prepend(row);
  conclude(one, found, facts);
}

function conclude(one, found, facts) {
  const say = (where, text, kind) => { where.badge.textContent = text; where.badge.className = `badge ${kind}`; where.open = kind === "waits"; };
  for (const [id, outcome] of Object.entries(facts.outcomes || {})) {
    const other = journeys.get(`${one.platform}:${id}`);
    if (other && (other !== found || !facts.parts || !facts.parts.length)) say(other, outcome, /^(replied|merged|command|paused)/.test(outcome) ? "good" : "bad");
    if (other) other.outcome = outcome;
  }
  if (one.step === "accepted" && facts.new && !facts.due) say(found, phones[one.platform].node.classList.contains("with-person") ? "paused" : "kept", "good");
  if (one.step === "day") { phones[one.platform].wroteAt = 0; showWindow(); }
  if (one.step === "taken" && one.status === 200 && found.human) say(found, "the bot falls silent", "good");
  if (one.step === "taken" && one.status === 401) say(found, "refused", "bad");
  if (one.step === "postponed") say(found, until(facts.until, one.at), "waits");
  if (one.step === "killed") say(found, "killed", "waits");
  if (one.step === "receipt" && /is_echo|"status":"sent"/.test(one.octets)) found.told = true;
  if (one.step !== "settled") return;
  const { state: fate, due_at: due, error } = facts.fate;
  if (fate === "sent") say(found, `${found.outcome || "replied"} · ${duration(one.at - found.at)}`, "good");
  else if (facts.fate.unsure && found.told) say(found, "replied, its echo tells", "good");
  else if (FATES[fate]) say(found, fate === "expired" ? "window closed" : error ? `${fate}: ${error}` : fate, "bad");
  else say(found, due ? until(due, one.at) : "once more", "waits");
}

function opens(line, detail) {
  const node = el("details", {}, el("summary", { className: "line" }, ...line));
  node.addEventListener("toggle", () => {
    if (!node.open || node.querySelector(".octets")) return;
    const at = detail.indexOf("\n\n"), head = at < 0 ? "" : detail.slice(0, at), body = at < 0 ? detail : detail.slice(at + 2);
    const value = json(body), pretty = el("pre", { className: "octets", tabIndex: 0 });
    const draw = (raw) => pretty.replaceChildren(...(head ? [...headLines(head), "\n\n"] : []), ...(value && !raw ? coloured(JSON.stringify(value, null, 2)) : [body]));
    draw(false);
    const button = el("button", { type: "button", className: "raw", onclick: () => { button.textContent = button.textContent === "as sent" ? "indented" : "as sent"; draw(button.textContent === "indented"); } }, "as sent");
    node.append(value && head ? button : "", pretty);
  });
  return node;
}

function headLines(head) {
  const [first, ...fields] = head.split("\n");
  return [el("b", {}, first), ...fields.flatMap((field) => { const at = field.indexOf(":"); return ["\n", el("span", { className: "key-name" }, field.slice(0, at + 1)), field.slice(at + 1)]; })];
}

function coloured(text) {
  return text.split(/("(?:[^"\\]|\\.)*"(?=:)|"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?|true|false|null)/).map((piece, at, all) =>
    (at % 2 ? el("span", { className: piece[0] !== '"' ? "number" : all[at + 1].startsWith(":") ? "key-name" : "string" }, piece) : piece));
}

function operator(line) {
  if (line.level === "info") return;
  $("journeys").prepend(el("li", { className: `operator ${line.level}` }, el("b", {}, line.level), ` ${line.text}`, line.trace ? el("pre", {}, line.trace) : ""));
}

// --- what is told ----------------------------------------------------------------------------------------------------

function apply(news) {
  const was = state.up;
  state = { ...state, ...news };
  document.body.classList.toggle("down", !state.up);
  $("serving-text").textContent = state.up ? `serving, pid ${state.pid}` : was === undefined ? "starting…" : "down: starting again…";
  $("kill").disabled = !state.up;
  $("model-pill").hidden = false;
  $("model-pill").textContent = state.offline ? "offline responder: no AI connected" : `model: ${state.model}`;
  $("model-pill").title = state.offline ? "Inside the program the offline responder quotes what it gets. Before each answer it asks a simulated model server, which is where trouble with the model comes from." : "The real model answers; trouble cannot be made for it.";
  $("targets").lastElementChild.hidden = !state.offline;
  const lesson = LESSONS[state.lesson];
  $("lesson").hidden = !lesson;
  if (lesson) [$("lesson-title").textContent, $("lesson-text").textContent] = lesson;
  if (was && !state.up) for (const each of [...journeys.values()].filter((one) => one.open)) hop({ platform: each.platform, message: each.id, step: "killed", at: Date.now() });
  if (news.planned) drawKeys();
  showWindow();
}

function wrote(one) {
  if (one.way === "human") { bubble(one.platform, "person", one); showPerson(one.platform, true); } else {
    bubble(one.platform, "me", one);
    if (/^\/(human|bot)$/.test(one.text)) showPerson(one.platform, one.text === "/human");
  }
  journey(one.platform, one.id, one.text, one.at, one.way === "human");
  if (one.late) hop({ ...one, step: "late", message: one.id });
  showWindow();
}

function shown({ platform, what }) {
  if (what.kind === "text") bubble(platform, "bot", what);
  else if (what.kind === "read") mark(platform, "", "read");
  else typing(platform, what.kind === "typing");
}

function reset(news) {
  for (const platform of PHONES) { typing(platform, false); phones[platform].chat.replaceChildren(); phones[platform].mine.clear(); delete phones[platform].wroteAt; showPerson(platform, false); }
  $("journeys").replaceChildren();
  $("empty").hidden = false;
  journeys = new Map();
  state = {};
  apply(news);
}

PHONES.forEach(makePhone);
$("targets").append(...[...PHONES, "model"].map((name) => {
  const button = el("button", { type: "button", role: "radio", onclick: () => aim(name) }, icon(name, "glyph"), el("span", {}, name === "model" ? "Model" : NAMES[name]));
  button.dataset.target = name;
  return button;
}));
$("kill").addEventListener("click", () => post("/kill"));
aim("telegram");
hint("Choose what goes wrong, then write. Nothing that was acknowledged is lost: watch the wire.");
setInterval(showWindow, 20000);

const source = new EventSource("/events");
const TOLD = { hello: reset, state: apply, wrote, shown, hop, log: operator, delivered: (one) => mark(one.platform, one.id, "delivered") };
for (const [kind, run] of Object.entries(TOLD)) source.addEventListener(kind, (event) => run(JSON.parse(event.data)));
source.onerror = () => { $("serving-text").textContent = "the demo has ended"; document.body.classList.add("down"); $("kill").disabled = true; };
