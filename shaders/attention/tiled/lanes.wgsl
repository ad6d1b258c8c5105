// Which rows a lane has, and which of their channels.
#if SHARED
#if STAGED
    let slice = lane / ROW_LANES;
#else
    // Lanes of one slice are whole subgroups. That it is the same for all of them is said here, so
    // that what they load at the same address is loaded once.
    let slice = subgroupBroadcastFirst(lane / ROW_LANES);
#end
    let row_lane = lane % ROW_LANES;
    let own_head = slice * OWN_HEAD_QUADS;
    let own_value = slice * OWN_VALUE_QUADS;
    var buffer = 0u;
#else
    let row_lane = lane;
#end
