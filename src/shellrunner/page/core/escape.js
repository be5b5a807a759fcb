/* Sanitizing of text that other people wrote: control characters become visible, and nothing in it can reverse the text
   direction or take the browser minutes to draw. Pure functions. */

// Combining marks and format characters on one letter. Drawing a thousand of them takes a second, ten thousand take
// minutes, and no language stacks more than a few.
const STACKED_MARKS = /([\p{Mn}\p{Me}\p{Cf}]{8})[\p{Mn}\p{Me}\p{Cf}]+/gu;
// C0 and C1 control characters except tab and line feed, and the characters that set the text direction.
const CONTROLS = /[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;

/** The text with at most eight combining marks on one letter. */
export const limitMarks = (text) => text.replace(STACKED_MARKS, "$1");

/** The text with each control character as its code point, ⟨1B⟩ or ⟨202E⟩, truncated to `maxLength` characters. */
export function escapeControls(text, maxLength = Infinity) {
  const truncated = text.length > maxLength ? `${text.slice(0, maxLength)}…` : text;
  return limitMarks(truncated.replace(CONTROLS, (character) => `⟨${character.charCodeAt(0).toString(16).toUpperCase()}⟩`));
}
