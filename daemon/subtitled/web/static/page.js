// What every page runs. All of it works without: forms are sent, links are followed.
import { beginLive } from "./live_update.js";

beginLive();
