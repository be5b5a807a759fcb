/* The dialog that changes a job which has not started yet. */

import { request } from "../core/api.js";
import { EDITABLE_GROUPS, toSpec } from "../form/fields.js";
import { createPatch } from "../form/patch.js";
import { parsePointer } from "../form/pointer.js";
import { SpecForm } from "../form/spec-form.js";
import { openForm } from "../ui/dialogs.js";
import { $ } from "../ui/dom.js";

let form = null;

/** Open the dialog for a job; `onChanged(job)` is called with the changed job. */
export function openEditDialog(job, onChanged) {
  form ??= new SpecForm($("edit-fields"), EDITABLE_GROUPS);
  form.fill(job);
  $("edit-title").textContent = `Edit job ${job.job_id}`;
  const before = form.texts;
  openForm($("edit"), async () => {
    form.clearErrors();
    try {
      const body = changes(before, form.texts, job);
      if (Object.keys(body).length) onChanged(await request("PATCH", `/api/jobs/${job.job_id}`, { body }));
    } catch (error) {
      const faults = error.key ? [{ key: error.key, detail: error.message }] : (error.errors || []).map(toFault);
      const shown = faults.map(({ key, detail }) => form.showError(key, detail));
      throw shown.length && shown.every(Boolean) ? new Error("") : error;
    }
  });
}

/** A merge patch with the keys whose text has changed. */
function changes(before, now, job) {
  const changed = Object.keys(now).filter((key) => now[key] !== before[key]);
  return createPatch(job, toSpec(now), changed.map((key) => (key === "delay" ? "start_at" : key)));
}

const toFault = ({ pointer, detail }) => ({ key: parsePointer(pointer).join("."), detail });
