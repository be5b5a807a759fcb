/* Text that others wrote, so that it shows what it is: nothing in it is unseen, turns the text around, or takes the
   browser minutes to draw. Text in, text out. */

// Marks and signs without a width of their own, heaped on one letter: fonts draw a thousand in a second, ten thousand
// in minutes, and no language has more than a few.
const PILE = /([\p{Mn}\p{Me}\p{Cf}]{8})[\p{Mn}\p{Me}\p{Cf}]+/gu;
// What does something and shows nothing: control characters but tab and line feed, and those that turn a text around.
const UNSEEN = /[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;

/** The text without more than a few marks on one letter. */
export const withoutPiles = (text) => text.replace(PILE, "$1");

/** The text with what is unseen made visible by its number, ⟨1B⟩ or ⟨202E⟩, and cut at `most` characters. */
export function plain(text, most = Infinity) {
  const cut = text.length > most ? `${text.slice(0, most)}…` : text;
  return withoutPiles(cut.replace(UNSEEN, (character) => `⟨${character.charCodeAt(0).toString(16).toUpperCase()}⟩`));
}
