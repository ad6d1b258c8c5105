// commit: the last dispatch of what changes sequences of a staircase cache. It writes the number of
// the change into the stamp of each sequence.
//
//   stamp = number   if the stamp was the one that the change expects
//
// as all other dispatches of the change ask, too. Of a fork the stamp that is asked for is that of
// the other sequence.
//
// Shapes      a stamp is one word of keys, in every head, before a sequence's region
// Moves       one per sequence, of one unit
// Workgroups  one per (head, INVOCATIONS of the line of all moves' units), numbered in one line and
//             folded into x and y
// Barriers    none: each invocation has a stamp of its own

#import cache/each_unit

fn take(own: Move, head: u32, unit: u32) {
    keys[head_base(0u, head) + own.destination] = params.number;
}
