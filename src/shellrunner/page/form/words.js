/* Splitting a command line into words, as a shell does with what needs no expansion. Pure functions. */

/** The words of a line; quotes and backslashes work as in a shell, nothing is expanded. Throws an Error if a quote is
    not closed. */
export function splitWords(line) {
  const words = [];
  let word = null; // null between words
  for (let at = 0; at < line.length; at += 1) {
    const character = line[at];
    if (character === "'" || character === '"') {
      const [text, end] = readQuoted(line, at);
      word = (word ?? "") + text;
      at = end;
    } else if (/\s/.test(character)) {
      if (word !== null) words.push(word);
      word = null;
    } else if (character === "\\" && at + 1 < line.length) word = (word ?? "") + line[(at += 1)];
    else word = (word ?? "") + character;
  }
  return word === null ? words : [...words, word];
}

/** The text between the quotes that begin at `start`, and where they end. */
function readQuoted(line, start) {
  const quote = line[start];
  let text = "";
  for (let at = start + 1; at < line.length; at += 1) {
    if (line[at] === quote) return [text, at];
    const isEscaped = quote === '"' && line[at] === "\\" && /["\\$`]/.test(line[at + 1] ?? "");
    text += isEscaped ? line[(at += 1)] : line[at];
  }
  throw new Error(`a quote is not closed: ${line.slice(start)}`);
}
