// Asks the local server, and shows what comes back as text: nothing that a model says becomes markup.
"use strict";

const at = (id) => document.getElementById(id);
const conversations = {}; // role -> turns
let about = null;

function make(tag, text, className) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  return element;
}

async function call(path, body) {
  const options = body && {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  };
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("The server does not answer. Start it again: neuron-opsd chat RUN --web");
  }
  const found = await response.json().catch(() => ({ error: `The server failed (${response.status}).` }));
  if (!response.ok) throw new Error(found.error);
  return found;
}

function complain(error) {
  at("problem").textContent = error ? error.message : "";
  at("problem").hidden = !error;
}

// Runs one piece of work with its form's buttons off, and shows what went wrong.
async function work(form, steps) {
  const buttons = form.querySelectorAll("button");
  complain(null);
  buttons.forEach((button) => (button.disabled = true));
  try {
    await steps();
  } catch (error) {
    complain(error);
  } finally {
    buttons.forEach((button) => (button.disabled = false));
    document.querySelectorAll(".waiting").forEach((mark) => mark.remove());
  }
}

function addThinking(column, thinking) {
  if (!thinking) return;
  const folded = make("details");
  folded.append(make("summary", `Thinking, ${thinking.split(/\s+/).length} words`), make("p", thinking, "text"));
  column.append(folded);
}

function addReply(column, reply) {
  addThinking(column, reply.thinking);
  column.append(make("p", reply.text || (reply.is_cut ? "" : "(an empty reply)"), "text"));
  if (reply.is_cut) column.append(make("p", "Cut at the limit of tokens.", "note"));
}

function shareTable(title, rows) {
  const table = make("table");
  table.append(make("caption", title));
  for (const [name, share] of rows) {
    const row = table.insertRow();
    row.insertCell().textContent = name;
    const meter = make("meter");
    meter.value = share;
    meter.setAttribute("aria-hidden", "true");
    const cell = row.insertCell();
    cell.append(meter, ` ${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`);
  }
  return table;
}

function showAnswers(column, found) {
  const choices = found.choices;
  const named = (answer) => {
    if (answer === null) return "no readable answer";
    return choices.length ? `${answer}. ${choices[answer.charCodeAt(0) - 65]}` : answer;
  };
  column.append(make("p", named(found.majority), "answer"));
  const title = found.is_exact ? "Probability" : `Share of ${found.replies.length} replies`;
  column.append(shareTable(title, found.shares.map(({ answer, share }) => [named(answer), share])));
  if (found.option_probabilities && !found.is_exact) {
    const rows = Object.entries(found.option_probabilities).map(([letter, share]) => [named(letter), share]);
    column.append(shareTable("Probability of each choice as the start of a reply", rows));
    if (found.option_mass < 0.1)
      column.append(make("p", "The model hardly begins its answers with a choice, so these say little.", "note"));
  }
  if (found.is_exact) return;
  const folded = make("details");
  folded.append(make("summary", `All ${found.replies.length} replies`));
  for (const reply of found.replies) {
    folded.append(make("p", `Answer: ${named(reply.answer)}`, "note"));
    addReply(folded, reply);
  }
  column.append(folded);
}

function newColumns(place) {
  place.replaceChildren();
  return about.roles.map((role) => {
    const column = make("article", undefined, "column");
    column.dataset.role = role;
    column.append(make("h2", role === "base" ? "Base model" : "Trained model"));
    place.append(column);
    return [role, column];
  });
}

async function ask() {
  const choices = at("choices").value.split("\n").map((line) => line.trim()).filter(Boolean);
  const body = { question: at("question").value, choices };
  if (about.counts_samples && at("samples").value) body.samples = Number(at("samples").value);
  const columns = newColumns(at("answers"));
  columns.forEach(([, column]) => column.append(make("p", "Answering ...", "waiting")));
  for (const [role, column] of columns) {
    const found = await call("/ask", { role, ...body });
    column.querySelector(".waiting").remove();
    showAnswers(column, found);
  }
}

// A turn counts once all models have replied. One that fails leaves no trace.
async function say() {
  const content = at("message").value.trim();
  if (!content) return;
  const added = [];
  const turns = {};
  try {
    for (const role of about.roles) {
      const turn = make("div");
      const waiting = make("p", "Answering ...", "waiting");
      turn.append(make("p", content, "text user"), waiting);
      document.querySelector(`#conversations [data-role=${role}]`).append(turn);
      added.push(turn);
      const asked = [...conversations[role], { role: "user", content }];
      const reply = await call("/chat", { role, messages: asked });
      turns[role] = [...asked, { role: "assistant", content: reply.text }];
      waiting.remove();
      addReply(turn, reply);
    }
  } catch (error) {
    added.forEach((turn) => turn.remove());
    throw error;
  }
  Object.assign(conversations, turns);
  at("message").value = "";
}

function reset() {
  about.roles.forEach((role) => (conversations[role] = []));
  newColumns(at("conversations"));
  complain(null);
}

function showPart() {
  const part = location.hash === "#chat" ? "chat" : "ask";
  for (const name of ["ask", "chat"]) {
    at(`${name}-part`).hidden = name !== part;
    const link = document.querySelector(`nav a[href="#${name}"]`);
    if (name === part) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

async function start() {
  try {
    about = await call("/about");
  } catch (error) {
    complain(error);
    return;
  }
  at("run").textContent = about.run;
  document.title = `${about.run}: neuron-opsd`;
  at("samples").value = about.samples;
  at("samples").max = about.max_samples;
  at("samples-part").hidden = !about.counts_samples;
  at("choices").required = about.needs_choices;
  reset();
  showPart();
  window.addEventListener("hashchange", showPart);
  at("ask-form").addEventListener("submit", (event) => {
    event.preventDefault();
    work(event.target, ask);
  });
  at("chat-form").addEventListener("submit", (event) => {
    event.preventDefault();
    work(event.target, say);
  });
  at("message").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      at("chat-form").requestSubmit();
    }
  });
  at("reset").addEventListener("click", reset);
  performance.mark("questions-ready");
}

start();
