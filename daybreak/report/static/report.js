// The moving parts of the report: its curves, samples to leaf through, tables to sift. The page reads without them.
(() => {
  "use strict";
  const { listen, set, tend, toggle } = daybreakCharts;

  /** Shows one step's samples, chosen with the slider. */
  function leaf(box) {
    const slider = box.querySelector("input[type=range]"), pages = [...box.querySelectorAll(".sample")];
    if (!slider) return;
    box.classList.add("leafed");
    const show = () => {
      pages.forEach((page, i) => page.classList.toggle("shown", i === +slider.value));
      box.querySelector("output").textContent = pages[+slider.value].dataset.label;
    };
    slider.addEventListener("input", show);
    show();
  }

  /** Hides the rows that do not hold what is written in the filter. */
  function sift(box) {
    const search = box.querySelector(".filter"), only = box.querySelector(".only-differing");
    if (!search) return;
    const rows = [...box.querySelectorAll("tbody tr")];
    const act = () => {
      const wanted = search.value.trim().toLowerCase();
      for (const row of rows) {
        row.hidden = !row.textContent.toLowerCase().includes(wanted) || (only !== null && only.checked && !row.querySelector(".differs"));
      }
    };
    search.addEventListener("input", act);
    if (only) only.addEventListener("change", act);
  }

  addEventListener("DOMContentLoaded", () => {
    const told = JSON.parse(document.getElementById("run-data").textContent);
    tend();
    set(told.runs, told.references);
    for (const box of document.querySelectorAll(".toggle-run")) listen(box, "change", () => toggle(box.value, box.checked));
    document.querySelectorAll(".samples").forEach(leaf);
    document.querySelectorAll(".filtered").forEach(sift);
  });
})();
