// A cell of a heat map tells its interval below the chart, where a chart that is wider than the screen does not hide it.
for (const figure of document.querySelectorAll("figure.chart:has(.told)")) {
  const line = document.createElement("p");
  line.className = "saying";
  line.textContent = "Point at a cell, or go to it with the tab key, to read its interval here.";
  figure.querySelector("figcaption").before(line);
  const tell = (event) => {
    const part = event.target.closest(".told");
    if (part) line.textContent = part.querySelector("title").textContent;
  };
  for (const kind of ["pointerover", "focusin"]) figure.addEventListener(kind, tell);
}
// Tables that can be sorted: a click on a heading sorts by its column, numbers from the highest, a second click turns it round.
const key = (row, column) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
const compare = (a, b) => {
  const [x, y] = [Number(a), Number(b)];
  return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b, "en", { numeric: true }) : x - y;
};
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.onclick = () => {
      const first = head.classList.contains("n") ? "descending" : "ascending";
      const turned = head.ariaSort === first ? (first === "ascending" ? "descending" : "ascending") : first;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.ariaSort = turned;
      const missing = (row) => key(row, column) === "–";
      const sign = turned === "ascending" ? 1 : -1;
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => missing(a) - missing(b) || sign * compare(key(a, column), key(b, column)));
      table.tBodies[0].append(...rows);
    };
  });
}
