//! The plane's own interfaces: what a program or a person meets who calls them, and the plane's own start.

rows! {
    PlaneStart: "the plane cannot start, or its store was not restored",
        "the state directory cannot be written, the port is taken, another plane runs on it, or the store was written by a newer version",
        "the message says which; after going back to an older plane: `pf9-plane put-back`";
    PlaneFailed: "the plane failed (500)",
        "its disk is full or fails, or a defect; the cause is in its log only",
        "see the plane's log in its state directory, and check that disk";
    Unauthenticated: "the request has no valid token (401)",
        "it has expired, was withdrawn, or is from another plane",
        "get one from POST /keystone/v3/auth/tokens; for `pf9ctl` put it into token_file of operator.toml";
    LoginRefused: "user or password is wrong",
        "mistyped, changed, or the user is disabled",
        "try again; the administrator's first password is in the plane's state directory";
    MethodUnsupported: "unknown authentication method",
        "the methods are password, token and application_credential",
        "use one of these";
    PathInvalid: "the path of the request is invalid, or names nothing",
        "characters that are not encoded, or an empty part",
        "correct the URL";
    NoSuchPath: "there is nothing at this path (404)",
        "a mistyped path, or an API of another version",
        "`docs/roles.md` has every route";
    NoSuchMethod: "this path does not support the method (405)",
        "GET in the place of POST, or the like",
        "`docs/roles.md` has every route with its method";
    QueryInvalid: "the query string cannot be read (400)",
        "a field that this path does not have, a duplicate, or an invalid value; the message names it",
        "correct the named field";
    BodyMalformed: "the body of the request cannot be read",
        "it is not valid JSON, a field is missing, or has another type; the message names it",
        "correct the named field";
    BodyTooLarge: "the body of the request is too large (413)",
        "the message has the bound",
        "send less at a time";
    BodyBroken: "the body of the request ended early",
        "the connection broke on the way",
        "send it again";
    BodySlow: "the body of the request did not arrive in time (408)",
        "a slow or broken connection, or many at once",
        "send it again";
    BatchTooLarge: "the request asks for too much at once",
        "the message has the bound",
        "ask in several parts";
    RangeInvalid: "the file has no such range (416)",
        "a resumed download is of a different file",
        "restart the download";
    TtlInvalid: "the validity is out of range",
        "the message has the bounds",
        "`pf9-plane token create --ttl 24h`; a kubeconfig at most 365 days";
    SourceUnknown: "there are no metrics of that name",
        "the message has the valid names",
        "name one of them";
    EventInvalid: "an event of a host is refused",
        "a field is empty or too long; a defect or an agent that is too new",
        "upgrade the plane first, then the agents";
    AlertInvalid: "the request about alerts is invalid",
        "an id that is not a UUID, or an unknown state",
        "`pf9-plane alert list`";
}
