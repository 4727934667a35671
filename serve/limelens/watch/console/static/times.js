// Times of day and ages, as the reader says them.

import { locale, say } from "./words.js";

const clock = new Intl.DateTimeFormat(locale, { timeStyle: "medium", hourCycle: "h23" });
const dated = new Intl.DateTimeFormat(locale, { dateStyle: "medium", timeStyle: "medium", hourCycle: "h23" });
const decimal = new Intl.NumberFormat(locale, { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const whole = new Intl.NumberFormat(locale, { maximumFractionDigits: 0 });
const share = new Intl.NumberFormat(locale, { style: "percent", maximumFractionDigits: 0 });

/** The time of day; with the date if it is not today's. */
export function clockTime(moment) {
  const isToday = moment.toDateString() === new Date().toDateString();
  return (isToday ? clock : dated).format(moment);
}

/** Such as "0.4 s" or "12 min". */
export function age(seconds) {
  if (seconds < 10) return say("age", { seconds: decimal.format(seconds) });
  if (seconds < 120) return say("age", { seconds: whole.format(seconds) });
  if (seconds < 7200) return say("age_minutes", { minutes: whole.format(seconds / 60) });
  return say("age_hours", { hours: whole.format(seconds / 3600) });
}

/** Such as "5.0/s". */
export function rate(value) {
  return say("rate", { rate: decimal.format(value) });
}

/** Such as "97 %"; never rounded up to certainty. */
export function percent(value) {
  return share.format(value < 1 ? Math.min(value, 0.99) : value);
}

export function number(value) {
  return whole.format(value);
}
