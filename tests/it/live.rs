//! The live view on a terminal of its own: drawn over itself, as wide as the window is now, and gone without a trace.

use std::process::Command;

use serde_json::Value;

/// A terminal of 70 columns, later of 100, in which a program runs that Ctrl-C is pressed for; what it was sent in each
/// of these times, how the program ended, and whether the terminal is set as before.
const TERMINAL: &str = r#"
import fcntl, json, os, pty, re, select, struct, sys, termios, time
BEGIN, END = b'\x1b[?2026h', b'\x1b[?2026l'
ends_at = time.monotonic() + 60
master, slave = pty.openpty()
def columns(n):
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack('HHHH', 40, n, 0, 0))
columns(70)
before = termios.tcgetattr(slave)
pid = os.fork()
if pid == 0:
    os.setsid()
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    for n in range(3):
        os.dup2(slave, n)
    os.close(master)
    os.close(slave)
    os.environ['TERM'] = 'xterm'
    os.execv(sys.argv[1], sys.argv[1:])
parts, status = [], None
def wide(part):
    text = re.sub('\x1b\\[[^a-zA-Z]*[a-zA-Z]', '', part.rsplit(END.decode(), 1)[0].rsplit(BEGIN.decode(), 1)[-1])
    return max(len(line.rstrip()) for line in text.split('\n')) > 70
def read(wanted):
    global status
    part = b''
    while time.monotonic() < ends_at:
        if select.select([master], [], [], 0.1)[0]:
            part += os.read(master, 65536)
        elif status is not None:
            break
        else:
            done, ended = os.waitpid(pid, os.WNOHANG)
            if done:
                status = ended
        if wanted and part.count(END) >= wanted:
            break
    parts.append(part.decode('utf-8', 'replace'))
read(2)
columns(100)
# Frames of before may still be on their way.
while time.monotonic() < ends_at and not (len(parts) > 1 and wide(parts[-1])):
    read(1)
parts[1:] = [''.join(parts[1:])]
os.write(master, b'\x03')
read(None)
if status is None:
    os.kill(pid, 9)
    os.waitpid(pid, 0)
exit_code = None if status is None else os.waitstatus_to_exitcode(status)
same = termios.tcgetattr(slave) == before
print(json.dumps({'parts': parts, 'exit': exit_code, 'same': same}))
"#;

/// A frame begins and ends with what makes it one change for a terminal.
const BEGINS: &str = "\x1b[?2026h";
const ENDS: &str = "\x1b[?2026l";

/// Columns of the widest line of a frame.
fn widest(frame: &str) -> usize {
    let mut text = String::new();
    let mut rest = frame;
    while let Some((before, after)) = rest.split_once('\x1b') {
        text.push_str(before);
        let end = after.find(|c: char| c.is_ascii_alphabetic());
        rest = end.and_then(|at| after.get(at + 1..)).unwrap_or_default();
    }
    text.push_str(rest);
    let lines = text.lines().map(|line| line.trim_end().chars().count());
    lines.max().unwrap_or_default()
}

#[test]
fn the_live_view_is_drawn_over_itself_fits_the_window_and_ends_with_ctrl_c() {
    let dir = tempfile::tempdir().expect("tempdir");
    std::fs::create_dir_all(dir.path().join("etc/pf9")).expect("directory");
    // Its reason has lines that 70 columns are too few for.
    std::fs::write(dir.path().join("etc/pf9/host_id.conf"), "nothing\n").expect("write");
    let ran = Command::new("python3")
        .args(["-c", TERMINAL])
        .arg(crate::support::program("pf9ctl"))
        .arg("--root")
        .arg(dir.path())
        .args(["status", "--watch"])
        .output()
        .expect("python3");
    assert!(ran.status.success(), "{ran:?}");
    let seen: Value = serde_json::from_slice(&ran.stdout).expect("json");
    let part = |n: usize| seen["parts"][n].as_str().expect("text");
    let (narrow, wide) = (part(0), part(1));
    let all = [narrow, wide, part(2)].concat();
    assert_eq!(seen["exit"], 0, "{seen:#}");

    let (before, drawn) = all.split_once(BEGINS).expect("a frame");
    assert_eq!(before, "\x1b[?25l\x1b[2J", "emptied once, without a cursor");
    for frame in drawn.split(BEGINS) {
        let (inside, after) = frame.split_once(ENDS).expect("a whole frame");
        assert!(inside.starts_with("\x1b[?7l\x1b[H"), "{frame:?}");
        for clears in ["\x1b[2J", "\x1bc", "\x1b[?1049"] {
            assert!(!inside.contains(clears), "{clears:?}: {frame:?}");
        }
        let echo = after.is_empty() || after.starts_with("^C");
        assert!(echo, "nothing is sent between frames: {frame:?}");
    }
    // One may have been under way when the window grew.
    let newest = |part: &str| {
        let (frames, _) = part.rsplit_once(ENDS).expect("a whole frame");
        widest(frames.rsplit(BEGINS).next().unwrap_or_default())
    };
    assert!((50..=70).contains(&newest(narrow)), "{narrow}");
    assert!((71..=100).contains(&newest(wide)), "{wide}");

    let (_, end) = all.rsplit_once(ENDS).expect("frames");
    assert!(end.contains("\x1b[?25h"), "the cursor is back: {end:?}");
    assert_eq!(seen["same"], true, "the terminal is set as before");
}
