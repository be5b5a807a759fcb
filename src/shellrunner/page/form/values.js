/* The values of a form's fields as text: each kind is parsed, and formatted so that parsing gives the same value. A parser
   throws an Error with the rest of a sentence that begins with the field's name. Pure functions. */

import { serverTime } from "../core/api.js";

const SECONDS = { s: 1, m: 60, h: 3600, d: 86400 };
const QUOTED = /^"((?:[^"\\]|\\[^])*)"[ \t]*(?=\n|$)/; // to the end of a line
const BYTES = { "": 1, k: 2 ** 10, m: 2 ** 20, g: 2 ** 30, t: 2 ** 40 };

export const text = { parse: (given) => given.trim(), format: String };

/** Text whose spaces and line ends count. */
export const exactText = { parse: (given) => given, format: String };

export const number = { parse: parseNumber, format: String };

/** Seconds: 90, 1.5, 10m, 1h 30m. */
export const duration = { parse: parseDuration, format: formatSeconds };

/** Bytes: 1048576, 512M, 2 GiB. */
export const size = { parse: parseSize, format: formatBytes };

/** `NAME=value`, one a line; in double quotes a value may have several lines, and \" and \\ stand for " and \. A name alone
    is an error: a value that is not known must not become an empty one. */
export const assignments = {
  parse: parseAssignments,
  format: (value) => Object.entries(value).map(([name, each]) => (each === null ? name : `${name}=${quote(each)}`)).join("\n"),
};

/** Job ids, separated by spaces or commas. */
export const ids = {
  parse: (given) => given.trim().split(/[\s,]+/).map(parseNumber),
  format: (value) => value.join(" "),
};

/** Words, separated by spaces or commas. */
export const words = {
  parse: (given) => given.trim().split(/[\s,]+/),
  format: (value) => value.join(" "),
};

/** An instant, in the field as the local time. */
export const instant = {
  parse: (given) => new Date(given).toISOString(),
  format: (value) => {
    const then = new Date(value);
    return new Date(then - then.getTimezoneOffset() * 60_000).toISOString().slice(0, 19);
  },
};

/** A duration from now, as the instant then. */
export const fromNow = {
  parse: (given) => new Date(serverTime() + parseDuration(given) * 1000).toISOString(),
};

function parseNumber(given) {
  const value = Number(given);
  if (given.trim() === "" || !Number.isFinite(value)) throw new Error(`“${given}” is not a number`);
  return value;
}

function parseDuration(given) {
  const trimmed = given.trim().toLowerCase();
  if (/^[0-9.]+$/.test(trimmed)) return parseNumber(trimmed);
  if (!/^([0-9.]+\s*[smhd]\s*)+$/.test(trimmed)) throw new Error(`“${given}” is not a duration such as 90, 10m or 1h 30m`);
  const parts = [...trimmed.matchAll(/([0-9.]+)\s*([smhd])/g)];
  return parts.reduce((sum, [, amount, unit]) => sum + parseNumber(amount) * SECONDS[unit], 0);
}

function formatSeconds(seconds) {
  const unit = ["d", "h", "m"].find((each) => seconds && seconds % SECONDS[each] === 0);
  return unit ? `${seconds / SECONDS[unit]}${unit}` : String(seconds);
}

function parseSize(given) {
  const [, amount, unit] = /^\s*([0-9.]+)\s*([kmgt]?)(?:i?b)?\s*$/i.exec(given) ?? [];
  if (amount === undefined) throw new Error(`“${given}” is not a size such as 1048576, 512M or 2G`);
  return Math.round(parseNumber(amount) * BYTES[unit.toLowerCase()]);
}

function formatBytes(bytes) {
  const unit = ["t", "g", "m", "k"].find((each) => bytes % BYTES[each] === 0);
  return unit ? `${bytes / BYTES[unit]}${unit.toUpperCase()}` : String(bytes);
}

function parseAssignments(given) {
  const found = [];
  for (let rest = given; rest;) {
    const [line] = /^[^\n]*/.exec(rest);
    const end = line.trim() ? parseAssignment(rest, line, found) : line.length;
    rest = rest.slice(end + 1);
  }
  return Object.fromEntries(found);
}

/** Add what `text` begins with, on its first line or on several; returns where it ends. */
function parseAssignment(text, line, found) {
  const separator = line.indexOf("=");
  if (separator < 0) throw new Error(`“${line}” has no value: enter it after a “=”, or remove the line`);
  if (separator === 0) throw new Error(`“${line}” is not NAME=value`);
  const name = line.slice(0, separator).trim();
  if (line[separator + 1] !== '"') {
    found.push([name, line.slice(separator + 1)]);
    return line.length;
  }
  const quoted = QUOTED.exec(text.slice(separator + 1));
  if (!quoted) throw new Error(`the value of “${name}” begins with a quote, but no line ends with the closing one`);
  found.push([name, quoted[1].replace(/\\(["\\])/g, "$1")]);
  return separator + 1 + quoted[0].length;
}

/** The text of a value: in quotes if it would not be read as it is. */
function quote(value) {
  return /\n|^"/.test(value) ? `"${value.replace(/["\\]/g, "\\$&")}"` : value;
}
