package mart;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.FileAlreadyExistsException;
import java.nio.file.FileSystemException;
import java.nio.file.Files;
import java.nio.file.Paths;
import java.util.ArrayList;
import java.util.Iterator;
import java.util.List;
import java.util.UUID;

import io.delta.storage.HDFSLogStore;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.Path;

/**
 * Delta's log on a plain file system, where a commit is a hard link: the system makes one only if nothing has that name yet.
 *
 * Delta's own way there is to look whether the commit exists, and to rename a file to it, which replaces what another driver has
 * put there in between: both are told that they committed, and the rows of one are gone.
 * Where a file system has no hard links, its way stays.
 */
public class LinkLogStore extends HDFSLogStore {

    public LinkLogStore(Configuration configuration) {
        super(configuration);
    }

    @Override
    public void write(Path path, Iterator actions, Boolean overwrite, Configuration configuration) throws IOException {
        if (overwrite.booleanValue()) {
            super.write(path, actions, overwrite, configuration);
            return;
        }
        List lines = new ArrayList();
        while (actions.hasNext()) {
            lines.add(actions.next());
        }
        java.nio.file.Path commit = Paths.get(path.toUri().getPath(), new String[0]);
        java.nio.file.Path draft = commit.resolveSibling("." + commit.getFileName() + "." + UUID.randomUUID() + ".tmp");
        try {
            Files.write(draft, lines, StandardCharsets.UTF_8, new java.nio.file.OpenOption[0]);
            if (!link(commit, draft)) {
                super.write(path, lines.iterator(), overwrite, configuration);
            }
        } finally {
            Files.deleteIfExists(draft);
        }
    }

    /** False where the file system has no links. */
    private static boolean link(java.nio.file.Path commit, java.nio.file.Path draft) throws IOException {
        try {
            Files.createLink(commit, draft);
            return true;
        } catch (UnsupportedOperationException error) {
            return false;
        } catch (FileSystemException error) {
            // A network file system may repeat a request whose answer was lost, and then finds the link that it has made.
            if (((Integer) Files.getAttribute(draft, "unix:nlink", new java.nio.file.LinkOption[0])).intValue() > 1) {
                return true;
            }
            if (error instanceof FileAlreadyExistsException) {
                throw error;
            }
            return false;
        }
    }
}
