"use strict";
const at = id => document.getElementById(id), sides = ["left", "right"];
const KEYS = { ArrowLeft: "left", ArrowRight: "right", ArrowDown: "none" };
let number = null;

async function show(state) {
  at("bar").max = state.total;
  at("bar").value = state.done;
  at("count").textContent = `${state.done} of ${state.total} votes`;
  at("prompt").textContent = state.prompt || "";
  at("undo").hidden = state.done === 0;
  at("pair").hidden = at("none").hidden = state.number === null;
  at("question").textContent = state.number === null ? "Thank you: every image has a vote." : "Which image is better?";
  if (state.number === null) return;
  at("pair").classList.add("waiting");
  await Promise.all(sides.map(side => load(at(side), `/image/${state.number}/${side}`)));
  at("pair").classList.remove("waiting");
  document.body.dataset.widths = sides.map(side => at(side).naturalWidth).join(" ");
  number = state.number;
}

function load(image, url) {
  image.src = url;
  return image.decode().then(() => {
    image.classList.toggle("small", image.naturalWidth < 256);
    image.style.maxWidth = `${image.naturalWidth * 10}px`;
  });
}

async function ask(path, options) {
  try {
    const answer = await fetch(path, options), state = await answer.json();
    if (!answer.ok && answer.status !== 409) throw new Error(state.error);
    at("error").textContent = "";
    await show(state);
  } catch (error) {
    at("error").textContent = `Not stored: ${error.message}. Load the page again.`;
  }
}

function vote(choice) {
  if (number === null) return;
  const body = JSON.stringify({ number, choice });
  number = null;
  ask("/vote", { method: "POST", headers: { "Content-Type": "application/json" }, body });
}

function undo() {
  if (at("undo").hidden) return;
  number = null;
  at("undo").hidden = true;
  ask("/undo", { method: "POST" });
}

at("undo").addEventListener("click", () => { at("undo").blur(); undo(); });
document.querySelectorAll("[data-choice]").forEach(button =>
  button.addEventListener("click", () => { button.blur(); vote(button.dataset.choice); }));
document.addEventListener("keydown", event => {
  if (event.repeat || event.ctrlKey || event.altKey || event.metaKey) return;
  if (!(event.key in KEYS) && event.key !== "ArrowUp") return;
  event.preventDefault();
  if (event.key === "ArrowUp") undo(); else vote(KEYS[event.key]);
});
ask("/next");
