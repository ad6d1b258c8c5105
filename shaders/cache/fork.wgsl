// fork: a sequence of a staircase cache that begins with another's tokens. Its words are copied.
//
//   word[to + i] = word[from + i]   if the other sequence is as the fork expects it
//
// Shapes      regions of the same arena; from, to and words of keys or of values, from the start
//             of a head
// Moves       some of a region's words. A unit is a word
// Workgroups  one per (head, INVOCATIONS of the line of all moves' units), numbered in one line and
//             folded into x and y
// Barriers    none: no move of a dispatch reads the region that is written

#import cache/each_unit

fn take(own: Move, head: u32, unit: u32) {
    let base = head_base(own.flags, head);
    store(own.flags, base + own.destination + unit, load(own.flags, base + own.source + unit));
}
