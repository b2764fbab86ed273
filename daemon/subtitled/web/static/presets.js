// Options of uploads: the last ones are remembered, others can be saved under a name; all in this browser.
import { message } from "./messages.js";
import { store, stored } from "./storage.js";

const KEY = "subtitled.upload_options";
const form = document.getElementById("upload-form");
const choice = document.getElementById("preset");
const removal = document.getElementById("preset-remove");

const load = () => {
  try {
    return { last: [], named: {}, ...JSON.parse(stored(KEY)) };
  } catch {
    return { last: [], named: {} };
  }
};
const save = (value) => store(KEY, JSON.stringify(value));
const fields = () => [...new FormData(form)].filter(([name, value]) => typeof value === "string" && name !== "url");

/** Set the fields of the form; unknown names and values are left out. */
function apply(values) {
  for (const field of form.querySelectorAll("select[name], input[name]:not([type=file], [type=url])")) {
    const own = values.filter(([name]) => name === field.name).map(([, value]) => value);
    if (field.type === "checkbox") field.checked = own.includes(field.value);
    else if (field.tagName !== "SELECT" || [...field.options].some((option) => option.value === own[0])) field.value = own[0] ?? "";
  }
}

function list(selected = "") {
  const names = Object.keys(load().named).sort();
  choice.replaceChildren(choice.options[0], ...names.map((name) => new Option(name, name)));
  choice.value = selected;
  removal.hidden = !selected;
}

/** Start to remember the options of the upload form. */
export function rememberOptions() {
  list();
  if (load().last.length) apply(load().last);
  form.addEventListener("change", () => save({ ...load(), last: fields() }));
  choice.addEventListener("change", () => {
    const { named, last } = load();
    apply(choice.value ? named[choice.value] : last);
    removal.hidden = !choice.value;
  });
  document.getElementById("preset-save").addEventListener("click", () => {
    const name = prompt(message("preset_name"), choice.value)?.trim().slice(0, 60);
    if (!name) return;
    const { last, named } = load();
    save({ last, named: { ...named, [name]: fields() } });
    list(name);
  });
  removal.addEventListener("click", () => {
    const { last, named } = load();
    delete named[choice.value];
    save({ last, named });
    list();
  });
}
