"use strict";
const byText = new Intl.Collator(undefined, { numeric: true });

function sortBy(table, column, up) {
  const body = table.tBodies[0];
  const key = row => row.cells[column].dataset.sort;
  const compare = (a, b) => {
    if (key(a) === "" || key(b) === "") return (key(a) === "") - (key(b) === "");
    return (up ? 1 : -1) * (column === 0 ? byText.compare(key(a), key(b)) : key(a) - key(b));
  };
  body.append(...[...body.rows].sort(compare));
  [...table.tHead.rows[0].cells].forEach((cell, at) =>
    cell.setAttribute("aria-sort", at !== column ? "none" : up ? "ascending" : "descending"));
}

const metrics = document.getElementById("metrics");
[...metrics.tHead.rows[0].cells].forEach((cell, column) => cell.querySelector("button").addEventListener("click", () =>
  sortBy(metrics, column, cell.getAttribute("aria-sort") !== "ascending")));

function page(sheet, pager) {
  const rows = [...sheet.tBodies[0].rows], size = Number(sheet.dataset.perPage), last = Math.ceil(rows.length / size) - 1;
  const buttons = [...pager.querySelectorAll("button")];
  let now = 0;
  const show = at => {
    now = Math.min(Math.max(at, 0), last);
    rows.forEach((row, index) => { row.hidden = Math.floor(index / size) !== now; });
    pager.querySelector("span").textContent = `page ${now + 1} of ${last + 1}`;
    buttons[0].disabled = now === 0;
    buttons[1].disabled = now === last;
  };
  buttons.forEach(button => button.addEventListener("click", () => show(now + Number(button.dataset.by))));
  pager.hidden = last === 0;
  show(0);
}

const sheet = document.getElementById("sheet");
if (sheet) page(sheet, document.getElementById("pager"));
document.documentElement.dataset.ready = "yes";
