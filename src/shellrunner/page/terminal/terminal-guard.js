/* What a command may not do with the terminal that shows it: take the mouse, repaint the page's colours, make links, or
   have xterm.js count to two thousand million. Knows nothing but the terminal's parser. */

// A command that was ended may have left the terminal reporting the mouse, which would take selecting away.
const MOUSE = new Set([9, 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1015, 1016]);
// Of lines to insert, delete, scroll up and down, of tabs forth and back, of repeats of a character: xterm.js does
// each as often as it is told to, and the page would stand still until then.
const COUNTED = ["L", "M", "S", "T", "I", "Z", "b"];
const MOST = 500; // times: more lines than a screen has
// Links lead away from here, and colours that are set so stay for the next job: RIS does not take them back.
const REFUSED = [4, 8, 10, 11, 12];

/** Have this parser, a terminal's, leave out what would do harm. */
export function tame(parser) {
  parser.registerCsiHandler({ prefix: "?", final: "h" }, (modes) => modes.length === 1 && MOUSE.has(modes[0]));
  for (const final of COUNTED) parser.registerCsiHandler({ final }, ([count]) => count > MOST);
  for (const number of REFUSED) parser.registerOscHandler(number, () => true);
}
