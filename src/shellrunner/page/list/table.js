/* The table of jobs: one group of rows per section, one row per job, updated and moved rather than created again, so that
   focus and selection stay. It must not know about the network.
   A new column: a cell in row.js, its header in index.html, its width in styles/list.css, its field in job-list.js, in
   row.js's fingerprint if its value can change, and in filters.js if one can sort by it. */

import { linkTo } from "../core/address.js";
import { $, createElement, setText } from "../ui/dom.js";
import { JobRow } from "./row.js";

const container = $("rows");
const [present, past] = container.children; // one below the other, or beside each other where there is room
const PRESENT = new Set(["running", "queued", "waiting"]);
const groups = new Map(); // by the section's key

/** Show these sections, each with its rows; `openId` is the job that is open beside the list. `expand(key)` is called when
    all rows of a section are wanted that no filter can select. */
export function showSections(sections, openId, expand) {
  const listed = new Set(sections.map(({ key }) => key));
  for (const key of [...groups.keys()].filter((each) => !listed.has(each))) {
    groups.get(key).element.remove();
    groups.delete(key);
  }
  for (const section of sections) {
    if (!groups.has(section.key)) groups.set(section.key, new RowGroup(section, expand));
    groups.get(section.key).show(section, openId);
  }
  const elements = (isPresent) => sections.filter(({ key }) => PRESENT.has(key) === isPresent).map(({ key }) => groups.get(key).element);
  place(present, elements(true));
  place(past, elements(false));
}

/** The ids of the listed jobs, in their order. */
export const listedIds = () => [...new Set([...groups.values()].flatMap((group) => group.ids))];

/** Move the focus to the next job (1) or the previous one (-1). */
export function moveFocus(offset) {
  const links = [...container.querySelectorAll(".job-link")];
  const find = (selector) => links.findIndex((link) => link.closest(".row").matches(selector));
  const index = [find(":focus-within"), find("[data-open]")].find((each) => each >= 0) ?? -1;
  links[Math.min(links.length - 1, Math.max(0, index < 0 ? 0 : index + offset))]?.focus();
}

/** Move the focus to this job. */
export function focusRow(id) {
  container.querySelector(`[data-job="${id}"] .job-link`)?.focus();
}

class RowGroup {
  #rows = new Map(); // by job id
  #heading;
  #body = createElement("div", { role: "rowgroup", class: "row-group" });

  constructor({ key, title, all }, expand) {
    this.element = createElement("div", { class: "section", "data-section": key });
    if (title) {
      const more = all
        ? createElement("a", { class: "show-all", ...linkTo(all) }, "Show all")
        : createElement("button", { class: "show-all link", type: "button", onclick: () => expand(key) }, "Show more");
      const cell = createElement("span", { role: "cell" }, createElement("h2", {}, title), createElement("span", { class: "count" }), more);
      this.#heading = createElement("div", { role: "row", class: "section-head" }, cell);
      this.element.append(createElement("div", { role: "rowgroup" }, this.#heading));
    }
    this.element.append(this.#body);
  }

  get ids() {
    return [...this.#body.children].map((element) => Number(element.dataset.job));
  }

  show({ rows, number, hidden }, openId) {
    if (this.#heading) {
      setText(this.#heading.querySelector(".count"), number);
      this.#heading.querySelector(".show-all").hidden = !hidden;
    }
    const listed = new Set(rows.map((job) => job.id));
    for (const id of [...this.#rows.keys()].filter((each) => !listed.has(each))) {
      this.#rows.get(id).element.remove();
      this.#rows.delete(id);
    }
    place(this.#body, rows.map((job) => this.#update(job, openId)));
  }

  #update(job, openId) {
    if (!this.#rows.has(job.id)) this.#rows.set(job.id, new JobRow(job.id, listedIds));
    const row = this.#rows.get(job.id);
    row.update(job, openId);
    return row.element;
  }
}

/** Make these elements an element's children, in this order, and move as few of them as possible. */
function place(parent, elements) {
  let current = parent.firstElementChild;
  for (const element of elements) {
    if (element === current) current = current.nextElementSibling;
    else parent.insertBefore(element, current);
  }
}
