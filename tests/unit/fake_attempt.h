/* An attempt without a VM, for tests of what is above attempt.h: a thread does what the job's argv
 * says, word by word, and tells the same events in the same order as a real one.
 *
 *   boot:PATH      wait for the file before the program starts
 *   out:TEXT err:TEXT   write a line to the job's stdout, stderr
 *   outn:N         write N bytes to stdout
 *   wait:PATH      wait for the file while the program runs
 *   collect:PATH   wait for the file after the program ended
 *   artifact:NAME  bring home an artifact of that name
 *   exit:N         end with that exit code (default 0)
 *   freed          tell that QEMU has ended, after the outcome
 *   gone:PATH      wait for the file between the outcome and the VM's end
 *   end:CLASS      end with that class of outcome, whatever came before
 *   end:K:CLASS    the same, but only the K-th attempt and those before it
 *   deaf           a cancel changes nothing of how it ends
 *   nothread       attempt_start() itself fails
 *
 * A cancel ends any wait but gone's. What happens is noted in STATE_DIR/fake.log, one line each:
 * "sweep", "start ID" or, in a warm VM, "take ID", "gone ID", and of warm VMs "warm boots", "warm
 * leaves". With a file STATE_DIR/fake.broken those do not come up, with fake.lost the idle ones
 * die.
 */
#pragma once

#define FAKE_LOG "fake.log"

/* The images that image_find() knows in tests: this one. */
#define FAKE_IMAGE "fake"
