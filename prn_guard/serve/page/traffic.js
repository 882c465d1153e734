// Live traffic: flagged share, evidence, alarm. Asked for again and again.

import { ask } from "./server.js";

const SECONDS = 2;
const KEPT = 150;
const WIDTH = 300, TOP = 4, BOTTOM = 60;
const TITLE = document.title;

const at = (id) => document.getElementById(id);
const whole = new Intl.NumberFormat("en");
const history = [];
let shown = "unknown";
let timer = 0;
let asking = null;

/** Ask now, and then every few seconds. */
export async function watch() {
  clearTimeout(timer);
  asking?.abort();
  const mine = (asking = new AbortController());
  try {
    show(await ask("v1/state", { signal: mine.signal }, 10));
  } catch (error) {
    if (mine.signal.aborted) return;
    lose(error);
  }
  timer = setTimeout(watch, SECONDS * 1000);
}

async function acknowledge() {
  const button = at("acknowledge");
  button.disabled = true;
  try {
    const state = await ask("v1/alarm/acknowledge", { method: "POST" }, 10);
    show(state);
    at("alarm-title").focus(); // the button is gone
  } catch (error) {
    at("alarm-text").textContent = `Not acknowledged: ${error.message}`;
  } finally {
    button.disabled = false;
    watch();
  }
}

function show(state) {
  const alarm = state.alarm;
  at("model").textContent =
    `${state.model_name}, version ${state.model_version}: ` +
    `${whole.format(state.class_names.length)} classes, ${state.width}\u00a0×\u00a0${state.height}`;
  say("contact", state.ready ? "Ready" : "Not ready yet");
  document.body.dataset.contact = state.ready ? "ready" : "waiting";
  showAlarm(alarm.raised ? "raised" : "quiet");
  const times = alarm.alarms === 1 ? "once" : `${whole.format(alarm.alarms)} times`;
  at("alarm-count").textContent = alarm.alarms ? `Raised ${times} since the server started` : "";
  showShare(alarm, state.false_positive_rate);
  showEvidence(alarm);
  at("seen").textContent = whole.format(alarm.seen);
  at("waiting").textContent = whole.format(state.waiting);
}

function lose(error) {
  document.body.dataset.contact = "lost";
  say("contact", error.status === 401 ? "Token needed" : "No contact: what is shown is old");
}

function showAlarm(state) {
  if (state === shown) return;
  const acknowledged = shown === "raised";
  shown = state;
  at("alarm").dataset.state = state;
  const raised = state === "raised";
  at("alarm-word").textContent = raised ? "Raised" : acknowledged ? "Quiet again" : "Quiet";
  at("alarm-text").textContent = raised
    ? "More pictures are flagged than calibration explains: an attack, or pictures unlike those the guard was calibrated on."
    : "";
  at("acknowledge").hidden = !raised;
  document.title = raised ? `Attack alarm – ${TITLE}` : TITLE;
}

function showShare(alarm, expected) {
  const none = alarm.seen === 0;
  at("share").textContent = none ? "–" : percent(alarm.flagged_share);
  if (none) history.length = 0;
  else history.push(alarm.flagged_share);
  if (history.length > KEPT) history.shift();
  const pictures = alarm.window === 1 ? "picture" : "pictures";
  at("share-note").textContent = none
    ? `No picture was answered yet. ${percent(expected)} are expected.`
    : `of the last ${whole.format(alarm.window)} ${pictures}; ${percent(expected)} expected (dashed)`;
  const most = Math.max(expected * 2, ...history) * 1.05;
  const level = (share) => BOTTOM - (BOTTOM - TOP) * (share / most);
  const step = WIDTH / (KEPT - 1);
  const points = history.map((share, place) => [place * step, level(share)]);
  if (points.length === 1) points.push([step, points[0][1]]);
  at("trend-line").setAttribute("points", points.map((point) => point.join(",")).join(" "));
  for (const end of ["y1", "y2"]) at("trend-expected").setAttribute(end, level(expected));
}

function showEvidence(alarm) {
  const share = Math.min(Math.max(alarm.statistic / alarm.threshold, 0), 1);
  at("evidence").style.setProperty("--share", share);
  at("evidence").dataset.full = share === 1;
  const most = evidence(alarm.threshold);
  at("evidence-note").textContent =
    `${evidence(alarm.statistic)} of ${most}, on a logarithmic scale. Clean pictures reach that ` +
    `once in ${most} or less often.`;
}

/** Evidence as a number, of its logarithm. */
function evidence(logarithm) {
  const value = 10 ** logarithm - 1;
  return value >= 1e12 ? `10^${Math.floor(logarithm)}` : whole.format(Number(value.toPrecision(2)));
}

/** Set a text that is read aloud, and only where it changed. */
function say(id, text) {
  if (at(id).textContent !== text) at(id).textContent = text;
}

/** A share as people write it: three digits that count, no more than two places. */
export function percent(share) {
  const hundredths = share * 100;
  const places = hundredths >= 99.95 || hundredths === 0 ? 0 : hundredths < 1 ? 2 : 1;
  return `${hundredths.toFixed(places)} %`;
}

at("acknowledge").addEventListener("click", acknowledge);
