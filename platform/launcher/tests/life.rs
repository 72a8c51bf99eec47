//! Wakes, sleeps and ends.
#![allow(clippy::unwrap_used)]

mod node;

use node::Node;

#[test]
fn a_tenant_is_woken_from_a_slot_and_stopped() {
    let mut node = Node::new(2);
    let mut platform = node.platform();
    platform.wait_slots(2);
    let mut awake = platform.wake("acme");
    assert!(awake.slot);
    println!("{:?}", awake.stages);
    let mut talk = awake.talk();
    println!("{}", talk.ask("list /var/spool/warren"));
    platform.stop(awake.cell, 2000);
    node.stop();
}
