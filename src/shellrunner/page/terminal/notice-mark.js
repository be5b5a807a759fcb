/* Marks the rows of the terminal that are the page's own, so that lines of the output are counted without them. The mark
   is an escape sequence that no output can have, because it names a secret of this page. */

const OSC = 6973; // used by no terminal that is known
const SECRET = crypto.getRandomValues(new Uint32Array(4)).join("-");

/** Return what marks the row of the cursor; `divides` is whether a line of the output goes on behind the notice. */
export const noticeMark = (divides) => `\x1b]${OSC};${SECRET};${divides ? 1 : 0}\x07`;

/** Call `onNotice(divides)` for each mark, once everything before it has been processed. */
export function readNoticeMarks(parser, onNotice) {
  parser.registerOscHandler(OSC, (data) => {
    const [secret, divides] = data.split(";");
    if (secret === SECRET) onNotice(divides === "1");
    return true;
  });
}
