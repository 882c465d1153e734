// Ways in: choosing, dropping, pasting, and the token.

import { examineFirst } from "./examine.js";
import { useToken, whenDenied } from "./server.js";
import { watch } from "./traffic.js";

const at = (id) => document.getElementById(id);
const drop = at("drop");
let last = null;

function take(files) {
  last = [...files];
  examineFirst(last);
}

at("file").addEventListener("change", (event) => {
  const files = [...event.target.files];
  event.target.value = ""; // so that the same picture can be chosen again
  if (files.length) take(files);
});

// The whole window takes what is dropped: a picture that missed the frame would else replace the page.
window.addEventListener("dragover", (event) => {
  event.preventDefault();
  drop.dataset.over = "yes";
});
window.addEventListener("dragleave", (event) => {
  if (event.relatedTarget === null) delete drop.dataset.over;
});
window.addEventListener("drop", (event) => {
  event.preventDefault();
  delete drop.dataset.over;
  take(event.dataTransfer.files);
});
window.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) take(event.clipboardData.files);
});

whenDenied((sent) => {
  const form = at("access");
  const first = form.hidden;
  form.hidden = false;
  const text = sent ? "The server does not take this token." : "";
  if (at("access-error").textContent !== text) at("access-error").textContent = text;
  if (first) at("token").focus();
});

at("access").addEventListener("submit", async (event) => {
  event.preventDefault();
  useToken(at("token").value);
  at("token").value = "";
  at("access").hidden = true;
  await watch();
  if (at("access").hidden && last) examineFirst(last);
});

watch();
